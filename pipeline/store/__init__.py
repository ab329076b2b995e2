"""Object stores and disks: create-only writes, listings, URIs. Knows nothing above it."""
