"""Teachers: trained tasks that another task learns from."""
