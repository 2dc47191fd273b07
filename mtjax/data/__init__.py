"""Data of mtjax: sources, fetching, streams."""
