"""The source whose hints come from eBPF programs in the kernel."""
