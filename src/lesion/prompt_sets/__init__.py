"""Prompt sets: many prompts from a file, a list or the Hub, row by row and in bounded memory."""
