"""Studies and reports: what runs are compared by, and the pages that a reader judges them from."""
