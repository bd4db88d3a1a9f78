"""The lead's page, tab by tab. Every handler asks the request who is there, and what they may do."""
