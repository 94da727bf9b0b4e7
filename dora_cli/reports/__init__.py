"""Run records (JSON), rank tables, progress and summaries. Reads records and writes pictures; never sees a model."""
