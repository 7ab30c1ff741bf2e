"""``python -m pqpool validate``: the documented scenarios and success criteria, measured on a real server."""
