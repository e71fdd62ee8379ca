using System.ComponentModel;
using System.Net.Sockets;
using System.Runtime.InteropServices;

namespace FramePin.Server.Native;

/// <summary>Sends a file descriptor over a Unix socket (SCM_RIGHTS), for which .NET has no call.</summary>
internal static unsafe partial class DescriptorPassing
{
    private const int SolSocket = 1;
    private const int ScmRights = 1;
    private const int NoSignal = 0x4000;

    /// <summary>struct msghdr of 64-bit Linux.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct MessageHeader
    {
        public void* Name;
        public nuint NameLength;
        public IoVector* Parts;
        public nuint PartCount;
        public void* Control;
        public nuint ControlLength;
        public int Flags;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct IoVector
    {
        public void* Base;
        public nuint Length;
    }

    /// <summary>struct cmsghdr with one descriptor.</summary>
    [StructLayout(LayoutKind.Sequential, Size = 24)]
    private struct OneDescriptor
    {
        public nuint Length;
        public int Level;
        public int Type;
        public int Descriptor;
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint sendmsg(int fd, MessageHeader* message, int flags);

    /// <summary>
    /// Sends one byte and, with it, a descriptor; the receiver gets one of its own. Throws
    /// <see cref="Win32Exception"/>.
    /// </summary>
    public static void Send(Socket socket, byte status, SafeHandle descriptor)
    {
        var held = false;
        try
        {
            descriptor.DangerousAddRef(ref held);
            var control = new OneDescriptor
            {
                Length = 20,
                Level = SolSocket,
                Type = ScmRights,
                Descriptor = (int)descriptor.DangerousGetHandle(),
            };
            // SAFETY: the header points to this stack frame only, which outlives the call; the descriptor is held open.
            var part = new IoVector { Base = &status, Length = 1 };
            var message = new MessageHeader
            {
                Parts = &part,
                PartCount = 1,
                Control = &control,
                ControlLength = (nuint)sizeof(OneDescriptor)
            };
            if (sendmsg((int)socket.Handle, &message, NoSignal) != 1)
                throw new Win32Exception(Marshal.GetLastPInvokeError(), "sending the machine's memory");
        }
        finally
        {
            if (held) descriptor.DangerousRelease();
        }
    }
}
