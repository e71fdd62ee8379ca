using System.Net.Sockets;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace FramePin.Server.Native;

/// <summary>A process by a descriptor (pidfd), which never means a later process of the same number.</summary>
/// <remarks>Any thread. Owns the descriptor.</remarks>
internal sealed unsafe partial class ProcessHandle : IDisposable
{
    private const int SolSocket = 1;
    private const int PeerPidFd = 77;
    private const int PidFdOpen = 434;
    private const int PidFdSendSignal = 424;
    private const int Kill = 9;
    private const short PollIn = 1;
    private const int Interrupted = 4;

    private readonly SafeFileHandle _descriptor;

    private ProcessHandle(int descriptor) => _descriptor = new SafeFileHandle(descriptor, ownsHandle: true);

    [StructLayout(LayoutKind.Sequential)]
    private struct PollDescriptor
    {
        public int Descriptor;
        public short Events;
        public short Returned;
    }

    /// <summary>
    /// The process at the other end of a Unix socket: as the kernel noted it at connect (SO_PEERPIDFD, since 6.5), or
    /// by its number on older kernels. Null when it is dead.
    /// </summary>
    public static ProcessHandle? OfPeer(Socket socket, int pid)
    {
        Span<byte> descriptor = stackalloc byte[sizeof(int)];
        try
        {
            socket.GetRawSocketOption(SolSocket, PeerPidFd, descriptor);
            return new ProcessHandle(BitConverter.ToInt32(descriptor));
        }
        catch (SocketException)
        {
            // An older kernel, or the process is dead already.
            var opened = (int)syscall(PidFdOpen, pid, 0);
            return opened >= 0 ? new ProcessHandle(opened) : null;
        }
    }

    /// <summary>
    /// Waits until the process is dead, at most <paramref name="time"/>. True: it is. Blocks the thread.
    /// </summary>
    public bool WaitForEnd(TimeSpan time)
    {
        var held = false;
        try
        {
            _descriptor.DangerousAddRef(ref held);
            // SAFETY: one struct on this stack frame; the descriptor is held open.
            var poll_ = new PollDescriptor { Descriptor = (int)_descriptor.DangerousGetHandle(), Events = PollIn };
            var ready = poll(&poll_, 1, (int)time.TotalMilliseconds);
            return ready > 0 || (ready < 0 && Marshal.GetLastPInvokeError() != Interrupted);
        }
        finally
        {
            if (held) _descriptor.DangerousRelease();
        }
    }

    /// <summary>Ends the process (SIGKILL). False: it is dead already, or not ours to end.</summary>
    public bool End()
    {
        var held = false;
        try
        {
            _descriptor.DangerousAddRef(ref held);
            return syscall(PidFdSendSignal, (int)_descriptor.DangerousGetHandle(), Kill, 0, 0) == 0;
        }
        finally
        {
            if (held) _descriptor.DangerousRelease();
        }
    }

    public void Dispose() => _descriptor.Dispose();

    [LibraryImport("libc", SetLastError = true)]
    private static partial int poll(PollDescriptor* descriptors, nuint count, int milliseconds);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint syscall(nint number, nint first, nint second);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint syscall(nint number, nint first, nint second, nint third, nint fourth);
}
