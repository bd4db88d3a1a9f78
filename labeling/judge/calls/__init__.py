"""Calls to an endpoint: within its limits and the budget, each in the ledger, none paid twice."""
