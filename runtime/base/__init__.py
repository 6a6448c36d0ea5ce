"""What everything stands on: errors, log, environment, redaction, records and JSON at no cost. Layer 0."""
