"""A Kubernetes namespace with KubeRay: what is made there for a run, and what it says."""
