"""Everything that imports ray: cluster, ingest, training contexts. What is computed there lives on the floors below."""
