using System.Buffers.Binary;
using FramePin.V1;
using Google.Protobuf;

namespace FramePin.Drivers;

/// <summary>The ioctls of a video node by number, run as the typed ones (v4l2-ioctl.c: video_usercopy).</summary>
internal static class V4l2Uapi
{
    /// <summary>_IOC_WRITE: the caller's bytes go in.</summary>
    private const uint GoesIn = 0x4000_0000;

    /// <summary>_IOC_READ: the driver's bytes go out.</summary>
    private const uint GoesOut = 0x8000_0000;

    /// <summary>A command of the typed form, and the way to read and to write its structure.</summary>
    private sealed record Form(
        string Command, Func<V4l2Structures, IMessage> Read, Action<V4l2Structures, IMessage> Write);

    /// <summary>By request number: direction, size, 'V' and the number of the command.</summary>
    private static readonly Dictionary<uint, Form> Forms = new()
    {
        [0x8068_5600] = new(V4l2.QueryCapabilities, _ => V4l2Structures.NoArgument(), (_, _) => { }),
        [0xc0d0_5604] = FormatForm(V4l2.GetFormat),
        [0xc0d0_5605] = FormatForm(V4l2.SetFormat),
        [0xc0d0_5640] = FormatForm(V4l2.TryFormat),
        [0xc014_5608] = new(V4l2.RequestBuffers, from => from.ReadRequest(),
            (into, answer) => into.WriteRequest((V4l2RequestBuffers)answer)),
        [0xc100_565c] = new(V4l2.CreateBuffers, from => from.ReadCreate(),
            (into, answer) => into.WriteCreate((V4l2CreateBuffers)answer)),
        [0xc040_5668] = new(V4l2.RemoveBuffers, from => from.ReadRemove(), (into, _) => into.WriteRemove()),
        [0xc040_5610] = new(V4l2.ExportBuffer, from => from.ReadExport(),
            (into, answer) => into.WriteExport((V4l2ExportBuffer)answer)),
        [0xc058_5609] = BufferForm(V4l2.QueryBuffer),
        [0xc058_560f] = BufferForm(V4l2.QueueBuffer),
        [0xc058_5611] = BufferForm(V4l2.DequeueBuffer),
        [0xc058_565d] = BufferForm(V4l2.PrepareBuffer),
        [0x4004_5612] = new(V4l2.StreamOn, from => from.ReadStream(), (_, _) => { }),
        [0x4004_5613] = new(V4l2.StreamOff, from => from.ReadStream(), (_, _) => { }),
    };

    /// <summary>
    /// Runs an ioctl by number as the typed one. The structure comes with the call, or lies in the caller's memory and
    /// only its address comes. The planes of a multi-planar buffer always lie there. -ENOTTY for a number that is not
    /// in the table, -EFAULT for bytes of another length than the number says, and for memory that cannot be loaded or
    /// stored. A call that fails leaves the bytes as they came. One whose answer cannot be stored has been done.
    /// </summary>
    /// <param name="file">The file that runs the typed form.</param>
    /// <param name="ioctl">The call.</param>
    /// <param name="kernel">Copies from and to the caller's memory.</param>
    /// <param name="signal">A signal for the caller.</param>
    public static async ValueTask<UapiIoctlResult> RunAsync(
        DriverFile file, UapiIoctl ioctl, DriverKernel kernel, CancellationToken signal)
    {
        if (!Forms.TryGetValue(ioctl.Request, out var form)) return Errno.ENOTTY;
        var bytes = await StructureAsync(ioctl, kernel).ConfigureAwait(false);
        if (bytes is null) return Errno.EFAULT;
        var (errno, planes, address) = await PlanesAsync(form, bytes, ioctl.AddressSpace, kernel).ConfigureAwait(false);
        if (errno != Errno.None) return errno;
        var structures = new V4l2Structures(bytes, planes, kernel.Machine);
        var argument = form.Read(structures);
        var result = await file.IoctlAsync(
            new IoctlContext(form.Command, argument.ToByteString(), ioctl.AddressSpace, ioctl.IsNonBlocking), signal)
            .ConfigureAwait(false);
        if (result.Errno != Errno.None) return result.Errno;
        form.Write(structures, result.Argument ?? argument);
        if (result.Argument is V4l2Capability capability)
            structures.WriteCapability(capability, kernel.Features.VersionCode);
        if (planes.Length > 0)
            errno = await kernel.CopyToUserAsync(ioctl.AddressSpace, address, planes, CancellationToken.None)
                .ConfigureAwait(false);
        if (errno == Errno.None && IsInMemory(ioctl) && (ioctl.Request & GoesOut) != 0)
            errno = await kernel.CopyToUserAsync(ioctl.AddressSpace, ioctl.Value, bytes, CancellationToken.None)
                .ConfigureAwait(false);
        return new UapiIoctlResult(errno, IsInMemory(ioctl) ? null : bytes) { TakeBack = result.TakeBack };
    }

    private static Form FormatForm(string command) => new(
        command, from => from.ReadFormat(), (into, answer) => into.WriteFormat((V4l2Format)answer));

    private static Form BufferForm(string command) => new(
        command, from => from.ReadBuffer(), (into, answer) => into.WriteBuffer((V4l2Buffer)answer));

    /// <summary>The argument is an address.</summary>
    private static bool IsInMemory(UapiIoctl ioctl) => ioctl.Argument.IsEmpty && ioctl.AddressSpace.Length > 0;

    /// <summary>The structure, as the caller gives it; null where it cannot be had.</summary>
    private static async Task<byte[]?> StructureAsync(UapiIoctl ioctl, DriverKernel kernel)
    {
        // _IOC_SIZE: bits 16 to 29.
        var size = (int)(ioctl.Request >> 16) & 0x3fff;
        if (!IsInMemory(ioctl)) return ioctl.Argument.Length == size ? ioctl.Argument.ToArray() : null;
        var bytes = new byte[size];
        if ((ioctl.Request & GoesIn) == 0) return bytes;
        return await kernel.CopyFromUserAsync(ioctl.AddressSpace, ioctl.Value, bytes, CancellationToken.None)
            .ConfigureAwait(false) == Errno.None ? bytes : null;
    }

    /// <summary>check_array_args: the planes of a multi-planar buffer, and their address.</summary>
    private static async Task<(Errno Errno, byte[] Planes, ulong Address)> PlanesAsync(
        Form form, byte[] bytes, string space, DriverKernel kernel)
    {
        if (form.Command is not (V4l2.QueryBuffer or V4l2.QueueBuffer or V4l2.DequeueBuffer or V4l2.PrepareBuffer))
            return (Errno.None, [], 0);
        var type = BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(V4l2Layout.Buffer.Type));
        var length = BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(V4l2Layout.Buffer.Length));
        if (!V4l2Structures.IsMultiplanar(type) || length == 0) return (Errno.None, [], 0);
        if (length > V4l2.MaxPlanes) return (Errno.EINVAL, [], 0);
        var address = BinaryPrimitives.ReadUInt64LittleEndian(bytes.AsSpan(V4l2Layout.Buffer.M));
        var planes = new byte[length * V4l2Layout.Plane.Bytes];
        if (space.Length == 0) return (Errno.EFAULT, [], 0);
        return (await kernel.CopyFromUserAsync(space, address, planes, CancellationToken.None).ConfigureAwait(false),
            planes, address);
    }
}
