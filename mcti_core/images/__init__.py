"""Read and check untrusted image files and image tensors."""
