"""Object stores and disks: create-only writes, listings, URIs. Depends only on the errors."""
