"""The source whose hints come of eBPF programs in the kernel."""
