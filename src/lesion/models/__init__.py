"""Language models: how they are found and loaded, and where they keep their neurons."""
