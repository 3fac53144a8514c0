"""Read and write files safely: foreign files are not trusted, replaced or lost."""
