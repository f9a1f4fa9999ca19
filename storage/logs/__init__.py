"""Where records come from: Kafka, the embedded event log, and the requests to read some again."""
