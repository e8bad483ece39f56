"""The profile tab: stages of live requests, the slow ones one by one, batches in time, and ops on demand."""
