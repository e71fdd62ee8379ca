using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace FramePin.Server.Native;

/// <summary>
/// A file that is held by a descriptor (O_PATH), a symbolic link itself and not its target. The number of an inode
/// that is held goes to no other file, so a path that leads to the same number leads to this file.
/// </summary>
/// <remarks>Owns the descriptor.</remarks>
internal sealed unsafe partial class HeldFile : IDisposable
{
    private const int KindMask = 0xf000;
    private const int SocketKind = 0xc000;
    private const int AtCurrentFolder = -100;
    private const int NoFollow = 0x100;
    private const int EmptyPath = 0x1000;
    private const uint BasicStats = 0x7ff;
    private const int OpenPath = 0x20_0000 | 0x8_0000; // O_PATH, O_CLOEXEC

    private readonly SafeFileHandle _descriptor;
    private readonly Identity _own;

    private HeldFile(SafeFileHandle descriptor, Identity own) => (_descriptor, _own) = (descriptor, own);

    public bool IsSocket => _own.Kind == SocketKind;

    /// <summary>The file under a path; null when there is none, or none that may be looked at.</summary>
    public static HeldFile? Of(string path)
    {
        var number = open(path, OpenPath | OpenNoFollow);
        if (number < 0) return null;
        var descriptor = new SafeFileHandle(number, ownsHandle: true);
        if (Look(number, "", EmptyPath) is { } own) return new HeldFile(descriptor, own);
        descriptor.Dispose();
        return null;
    }

    /// <summary>The path leads to this file now.</summary>
    public bool IsUnder(string path) => Look(AtCurrentFolder, path, NoFollow) == _own;

    public void Dispose() => _descriptor.Dispose();

    /// <summary>O_NOFOLLOW, whose bit differs between architectures.</summary>
    private static int OpenNoFollow =>
        RuntimeInformation.ProcessArchitecture is Architecture.Arm or Architecture.Arm64 ? 0x8000 : 0x2_0000;

    private static Identity? Look(int folder, string path, int flags)
    {
        Statx found;
        // SAFETY: the kernel writes one struct statx.
        if (statx(folder, path, flags, BasicStats, &found) != 0) return null;
        return new Identity(
            ((ulong)found.DeviceMajor << 32) | found.DeviceMinor, found.Inode, found.Mode & KindMask);
    }

    /// <param name="Device">Major and minor number of the file system's device.</param>
    /// <param name="Inode">Number of the file in its file system.</param>
    /// <param name="Kind">S_IFMT bits of the mode.</param>
    private readonly record struct Identity(ulong Device, ulong Inode, int Kind);

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
    private static partial int open(string path, int flags);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int statx(int folder, string path, int flags, uint mask, Statx* found);
}
