"""The processes that run calls: the template that is forked, and what its forks do."""
