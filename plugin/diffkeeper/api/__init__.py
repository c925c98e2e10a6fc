"""The VolumeDriver protocol and the admin API on a Unix socket; metrics on a TCP port."""
