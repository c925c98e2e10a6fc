"""Whether what is stored and what is live is what was recorded; and mending it."""
