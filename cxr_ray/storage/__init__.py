"""Files and folders, local or remote: paths, atomic writes, leases. Knows no format."""
