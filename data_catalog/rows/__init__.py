"""What a row is: columns, stages, drop reasons, identities, URLs, origins and image formats."""
