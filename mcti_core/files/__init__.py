"""Files: read and written so that nothing of others is trusted, replaced or lost."""
