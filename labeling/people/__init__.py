"""The people who label: accounts and roles, signing in, tokens for scripts, and the record of who changed what."""
