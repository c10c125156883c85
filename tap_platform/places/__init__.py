"""Where runs run: this computer, a Ray cluster, a Kubernetes namespace."""
