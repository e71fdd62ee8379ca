using System.Runtime.InteropServices;

namespace FramePin.Server.Native;

/// <summary>Which file a path names (statx), a symbolic link itself and not its target.</summary>
/// <param name="Device">Major and minor number of the file system's device.</param>
/// <param name="Inode">Number of the file in its file system.</param>
/// <param name="Kind">S_IFMT bits of the mode.</param>
internal readonly unsafe partial record struct FileIdentity(ulong Device, ulong Inode, int Kind)
{
    private const int KindMask = 0xf000;
    private const int SocketKind = 0xc000;
    private const int AtCurrentFolder = -100;
    private const int NoFollow = 0x100;
    private const uint BasicStats = 0x7ff;

    public bool IsSocket => Kind == SocketKind;

    /// <summary>The file under a path; null when there is none, or none that may be looked at.</summary>
    public static FileIdentity? Of(string path)
    {
        Statx found;
        // SAFETY: the kernel writes one struct statx.
        if (statx(AtCurrentFolder, path, NoFollow, BasicStats, &found) != 0) return null;
        return new FileIdentity(
            ((ulong)found.DeviceMajor << 32) | found.DeviceMinor, found.Inode, found.Mode & KindMask);
    }

    /// <summary>struct statx: 256 bytes on each architecture.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 256)]
    private struct Statx
    {
        [FieldOffset(28)]
        public ushort Mode;

        [FieldOffset(32)]
        public ulong Inode;

        [FieldOffset(136)]
        public uint DeviceMajor;

        [FieldOffset(140)]
        public uint DeviceMinor;
    }

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int statx(int folder, string path, int flags, uint mask, Statx* found);
}
