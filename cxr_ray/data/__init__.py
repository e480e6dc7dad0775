"""The store on disk, the plan of the rows that are used, and the batches."""
