"""Who saw, exported, changed or deleted what: rows that only ever are added (see `trail.record`)."""
