"""The store on ScyllaDB's Alternator, or anything else that speaks the DynamoDB API."""
