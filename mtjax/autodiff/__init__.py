"""What a traced function does with its parameters: which output each reaches, and where they enter it."""
