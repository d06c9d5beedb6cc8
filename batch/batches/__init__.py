"""Files that clients upload, and batches: many requests in one file, answered line by line behind interactive work."""
