using FramePin.Core.Backing;

namespace FramePin.Conformance.Scripts;

/// <summary>A file that every script finds open, and how it is made.</summary>
/// <param name="Name">As the snapshots show it.</param>
/// <param name="Kind">Its file system.</param>
/// <param name="Pages">Pages written at the start; page i begins with the byte 'A' + i.</param>
/// <param name="IsWritable">The descriptor that mmap uses is open for writing.</param>
/// <param name="SameAs">Index of the file of which this is a second, read-only descriptor; -1 for none.</param>
public sealed record FileSpec(string Name, FileKind Kind, int Pages, bool IsWritable = true, int SameAs = -1)
{
    /// <summary>Size of a page of this kind, in bytes.</summary>
    public ulong PageSize => Kind == FileKind.HugeTlb ? 2UL << 20 : 4096;

    /// <summary>/dev/zero: its mappings are anonymous memory.</summary>
    public bool IsZeroDevice => Name == "/dev/zero";

    /// <summary>/dev/mem, at the ROM below 1 MiB: a mapping of frames without pages.</summary>
    public bool IsRomDevice => Name == "/dev/mem";

    /// <summary>
    /// The control page of a performance counter that counts nothing: VM_PFNMAP over RAM, mapped whole. A child does
    /// not inherit its mappings.
    /// </summary>
    public bool IsCounterPage => Name == CounterPage;

    /// <summary>The name that maps shows for a performance counter.</summary>
    public const string CounterPage = "anon_inode:[perf_event]";

    /// <summary>
    /// Where every process that has one maps the counter's page for good, below all that scripts map: the kernel makes
    /// a fresh page when the last mapping has gone.
    /// </summary>
    public const ulong CounterPageAt = 0x0f00_0000;

    /// <summary>
    /// The files of every script, in order of their index; random scripts use those before the devices.
    /// </summary>
    public static IReadOnlyList<FileSpec> All { get; } =
    [
        new("memfd", FileKind.Shmem, 16),
        new("tmpfs", FileKind.Shmem, 16),
        new("disk", FileKind.Disk, 16),
        new("tmpfs", FileKind.Shmem, 16, IsWritable: false, SameAs: 1),
        new("disk", FileKind.Disk, 16, IsWritable: false, SameAs: 2),
        new("secret", FileKind.Secret, 8),
        new("huge", FileKind.HugeTlb, 2),
        new("/dev/zero", FileKind.Shmem, 0),
        new("/dev/mem", FileKind.Shmem, 0),
        new(CounterPage, FileKind.Shmem, 0),
    ];

    /// <summary>First byte of page <paramref name="page"/> at the start.</summary>
    public static byte FirstByte(int page) => (byte)('A' + page);
}
