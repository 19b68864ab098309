"""Secondary storage: what is parked or dead, the audit trail, and settings made at run time."""
