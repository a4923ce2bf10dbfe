"""What tests of several wings share: tiny models, tiny studies, a hub on this machine, plain loops."""
