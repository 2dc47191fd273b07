"""Human-rated sentiment in four domains: one stream a task, or one mixture."""
