using FramePin.V1;
using Google.Protobuf;

namespace FramePin.Drivers;

/// <summary>What an ioctl answers: an errno, and its argument as the driver leaves it.</summary>
public readonly record struct IoctlResult(Errno Errno, IMessage? Argument = null)
{
    public static implicit operator IoctlResult(Errno errno) => new(errno);
}

/// <summary>An ioctl as it reaches a driver.</summary>
/// <param name="Command">Such as "VIDIOC_QBUF".</param>
/// <param name="Argument">A message that driver and application agree on.</param>
/// <param name="AddressSpace">The caller's (current->mm): pointers in the argument mean it.</param>
/// <param name="IsNonBlocking">O_NONBLOCK.</param>
public readonly record struct IoctlContext(
    string Command, ByteString Argument, string AddressSpace, bool IsNonBlocking);

/// <summary>An ioctl of a real program, in the form of Linux, as it reaches a driver.</summary>
/// <param name="Request">The number that _IO, _IOR, _IOW and _IOWR make.</param>
/// <param name="Argument">The bytes behind the argument's pointer, as long as the number says.</param>
/// <param name="Value">The argument itself, for requests whose argument is a number and no pointer.</param>
/// <param name="AddressSpace">The caller's (current->mm): pointers in the bytes mean it.</param>
/// <param name="IsNonBlocking">O_NONBLOCK.</param>
public readonly record struct UapiIoctl(
    uint Request, ReadOnlyMemory<byte> Argument, ulong Value, string AddressSpace, bool IsNonBlocking);

/// <summary>What an ioctl in the form of Linux answers.</summary>
/// <param name="Errno">Whether it succeeded.</param>
/// <param name="Argument">The bytes as the driver leaves them; null where it leaves them as they came.</param>
/// <param name="Value">What ioctl returns on success.</param>
public readonly record struct UapiIoctlResult(Errno Errno, ReadOnlyMemory<byte>? Argument = null, uint Value = 0)
{
    public static implicit operator UapiIoctlResult(Errno errno) => new(errno);
}

/// <summary>
/// A driver: what a module registers under a node. Served to applications by <see cref="DriverServer"/>, or used in a
/// test directly.
/// </summary>
/// <remarks>Any thread may open; a driver locks its own state, as drivers do.</remarks>
public abstract class DriverModule : IAsyncDisposable
{
    /// <summary>The driver's name, for people.</summary>
    public abstract string Name { get; }

    /// <summary>file_operations.open: the file, or why there is none.</summary>
    public abstract ValueTask<(Errno Errno, DriverFile? File)> OpenAsync();

    /// <summary>The module is unloaded; every file was released before.</summary>
    public virtual ValueTask DisposeAsync()
    {
        GC.SuppressFinalize(this);
        return ValueTask.CompletedTask;
    }
}

/// <summary>An open file of a driver (struct file).</summary>
public abstract class DriverFile
{
    /// <summary>
    /// file_operations.unlocked_ioctl. An argument that cannot be parsed may throw: the caller is answered EFAULT.
    /// <paramref name="signal"/> is a signal for the caller: who waits stops waiting.
    /// </summary>
    public abstract ValueTask<IoctlResult> IoctlAsync(IoctlContext context, CancellationToken signal);

    /// <summary>
    /// file_operations.unlocked_ioctl with a number and bytes, as a real program calls it. A driver that speaks the
    /// typed form alone answers -ENOTTY. <paramref name="signal"/> as for the typed form.
    /// </summary>
    public virtual ValueTask<UapiIoctlResult> UapiIoctlAsync(UapiIoctl ioctl, CancellationToken signal) =>
        ValueTask.FromResult<UapiIoctlResult>(Errno.ENOTTY);

    /// <summary>
    /// file_operations.mmap: the device whose memory is mapped in place of the file, or an errno. -ENODEV for who has
    /// none.
    /// </summary>
    public virtual ValueTask<(Errno Errno, string Device)> MapAsync(MapCall call) =>
        ValueTask.FromResult((Errno.ENODEV, ""));

    /// <summary>
    /// file_operations.read and write: the bytes done, or an errno. -EINVAL for who has none. <paramref name="signal"/>
    /// as for ioctl.
    /// </summary>
    public virtual ValueTask<(Errno Errno, ulong Bytes)> TransferAsync(TransferCall call, CancellationToken signal) =>
        ValueTask.FromResult((Errno.EINVAL, 0UL));

    /// <summary>file_operations.release: the last user is gone; nothing is under way any more.</summary>
    public virtual ValueTask ReleaseAsync() => ValueTask.CompletedTask;
}
