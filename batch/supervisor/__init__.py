"""The service: three HTTP servers, the folder, batches, and the worker processes that it keeps alive."""
