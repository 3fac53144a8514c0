"""Image files and tensors that anybody may have made."""
