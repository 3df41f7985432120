//! ext2, ext3 and ext4 (kernel documentation, "ext4 Data Structures and Algorithms").

mod checksum;
mod error;
mod features;
mod group_descriptor;
mod inode;
mod superblock;
