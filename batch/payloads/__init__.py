"""What a job carries to its worker and what comes back: declared types that endpoints, folder and workers all import.

A payload is checked once, where the request comes in; the worker trusts it. Rows and frames hold the JSON that
`msgspec` writes of these structs, with absent fields left out, so a field can be added without a migration.
"""
