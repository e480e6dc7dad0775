"""The store on disk, the plan of which rows are used, and the batches read from it."""
