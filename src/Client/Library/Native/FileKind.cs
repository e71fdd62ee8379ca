using System.Runtime.InteropServices;

namespace FramePin.Client.Native;

/// <summary>What kind of file a path names (statx), for which .NET has no call.</summary>
internal static unsafe partial class FileKind
{
    private const int AtCurrentFolder = -100;
    private const uint TypeMask = 1;
    private const int KindMask = 0xf000;
    private const int SocketKind = 0xc000;

    /// <summary>A socket, or a symbolic link to one. False too for a file that may not be looked at.</summary>
    public static bool IsSocket(string path)
    {
        Statx found;
        // SAFETY: the kernel writes one struct statx.
        return statx(AtCurrentFolder, path, 0, TypeMask, &found) == 0 && (found.Mode & KindMask) == SocketKind;
    }

    /// <summary>struct statx: 256 bytes on each architecture.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 256)]
    private struct Statx
    {
        [FieldOffset(28)]
        public ushort Mode;
    }

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int statx(int folder, string path, int flags, uint mask, Statx* found);
}
