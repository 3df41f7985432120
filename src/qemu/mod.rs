//! Starts a throw-away snapshot under QEMU and reads its console.
