"""The labeling app: sign-in pages, the annotator's page, the lead's page and the HTTP API, in one server."""
