"""What a lesion is: frozen choices without tensors, which are the entries of a manifest."""
