using FramePin.V1;
using Google.Protobuf;

namespace FramePin.Drivers;

/// <summary>The answer of an ioctl.</summary>
/// <param name="Errno">Whether it succeeded.</param>
/// <param name="Argument">The argument as the driver leaves it; null where it leaves it as it came.</param>
public readonly record struct IoctlResult(Errno Errno, IMessage? Argument = null)
{
    /// <summary>
    /// Takes back what the answer gives away, such as a buffer that DQBUF took; called once, when the caller has given
    /// up and nobody takes the answer. Null where the answer gives nothing away.
    /// </summary>
    public Func<Task>? TakeBack { get; init; }

    /// <summary>An answer that leaves the argument as it came.</summary>
    /// <param name="errno">Whether it succeeded.</param>
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
/// <param name="Argument">The bytes behind the argument's pointer, as long as the number says; none where they lie in
/// the caller's memory.</param>
/// <param name="Value">The argument itself: a number, or a pointer without its bytes.</param>
/// <param name="AddressSpace">The caller's (current->mm): pointers in the bytes mean it.</param>
/// <param name="IsNonBlocking">O_NONBLOCK.</param>
public readonly record struct UapiIoctl(
    uint Request, ReadOnlyMemory<byte> Argument, ulong Value, string AddressSpace, bool IsNonBlocking);

/// <summary>The answer of an ioctl in the form of Linux.</summary>
/// <param name="Errno">Whether it succeeded.</param>
/// <param name="Argument">The bytes as the driver leaves them; null where it leaves them as they came.</param>
/// <param name="Value">The return value of ioctl on success.</param>
public readonly record struct UapiIoctlResult(Errno Errno, ReadOnlyMemory<byte>? Argument = null, uint Value = 0)
{
    /// <summary>As <see cref="IoctlResult.TakeBack"/>.</summary>
    public Func<Task>? TakeBack { get; init; }

    /// <summary>An answer that leaves the bytes as they came.</summary>
    /// <param name="errno">Whether it succeeded.</param>
    public static implicit operator UapiIoctlResult(Errno errno) => new(errno);
}

/// <summary>
/// A driver, as a module registers it under a node. <see cref="DriverServer"/> serves it to applications; a test may
/// call it directly.
/// </summary>
/// <remarks>Calls come on any thread and beside each other. A driver locks its own state, as drivers do.</remarks>
public abstract class DriverModule : IAsyncDisposable
{
    /// <summary>The driver's name, for people.</summary>
    public abstract string Name { get; }

    /// <summary>
    /// "machines/{m}/leases/{l}" of the driver: its nodes go when the lease ends. Empty: <see cref="DriverServer"/>
    /// opens a lease for the node.
    /// </summary>
    public virtual string Lease => "";

    /// <summary>
    /// Told of an exception that ended a call: a bug of the driver's. Its caller is answered EIO, and the other calls
    /// go on, also when this throws, which <see cref="TaskScheduler.UnobservedTaskException"/> shows. Any thread.
    /// </summary>
    public Action<Exception>? BugFound { get; set; }

    /// <summary>file_operations.open. The file is null with an errno.</summary>
    /// <param name="cancellationToken">A signal for the caller: the driver stops waiting.</param>
    public abstract ValueTask<(Errno Errno, DriverFile? File)> OpenAsync(
        CancellationToken cancellationToken = default);

    /// <summary>The module is unloaded. Every file was released before.</summary>
    public virtual ValueTask DisposeAsync()
    {
        GC.SuppressFinalize(this);
        return ValueTask.CompletedTask;
    }
}

/// <summary>An open file of a driver (struct file).</summary>
/// <remarks>
/// Calls come on any thread and beside each other, except <see cref="ReleaseAsync"/>, which comes last and alone.
/// </remarks>
public abstract class DriverFile
{
    /// <summary>
    /// file_operations.unlocked_ioctl. The parser may throw for an argument that it cannot read: the caller is answered
    /// EFAULT.
    /// </summary>
    /// <param name="context">The call.</param>
    /// <param name="signal">A signal for the caller: the driver stops waiting.</param>
    public abstract ValueTask<IoctlResult> IoctlAsync(IoctlContext context, CancellationToken signal = default);

    /// <summary>
    /// file_operations.unlocked_ioctl with a number and bytes, as a real program calls it. A driver that speaks only
    /// the typed form answers -ENOTTY.
    /// </summary>
    /// <param name="ioctl">The call.</param>
    /// <param name="signal">A signal for the caller: the driver stops waiting.</param>
    public virtual ValueTask<UapiIoctlResult> UapiIoctlAsync(UapiIoctl ioctl, CancellationToken signal = default) =>
        ValueTask.FromResult<UapiIoctlResult>(Errno.ENOTTY);

    /// <summary>
    /// file_operations.mmap: names the device whose memory is mapped in place of the file. -ENODEV from a driver
    /// without this operation.
    /// </summary>
    /// <param name="call">The call.</param>
    /// <param name="cancellationToken">A signal for the caller: the driver stops waiting.</param>
    public virtual ValueTask<(Errno Errno, string Device)> MapAsync(
        MapCall call, CancellationToken cancellationToken = default) => ValueTask.FromResult((Errno.ENODEV, ""));

    /// <summary>
    /// file_operations.read and write. The answer is the bytes done, or an errno; -EINVAL from a driver without these
    /// operations.
    /// </summary>
    /// <param name="call">The call.</param>
    /// <param name="signal">A signal for the caller: the driver stops waiting.</param>
    public virtual ValueTask<(Errno Errno, ulong Bytes)> TransferAsync(
        TransferCall call, CancellationToken signal = default) => ValueTask.FromResult((Errno.EINVAL, 0UL));

    /// <summary>
    /// file_operations.poll: waits until the file is ready for an event that is asked for, or has an error. The answer
    /// is what it is ready for, <see cref="PollEvents.Error"/> included; nothing when it is not ready and does not
    /// wait. A driver without this operation is always ready.
    /// </summary>
    /// <param name="events">What is asked for.</param>
    /// <param name="waits">Waits; otherwise it answers at once.</param>
    /// <param name="signal">A signal for the caller, or the end of its time: the driver stops waiting.</param>
    public virtual ValueTask<(Errno Errno, PollEvents Events)> PollAsync(
        PollEvents events, bool waits, CancellationToken signal = default) =>
        ValueTask.FromResult((Errno.None, PollEvents.AlwaysReady & events));

    /// <summary>file_operations.release: the last user is gone, and no call is under way.</summary>
    /// <param name="cancellationToken">Not signalled by <see cref="DriverServer"/>: a file is always released.</param>
    public virtual ValueTask ReleaseAsync(CancellationToken cancellationToken = default) => ValueTask.CompletedTask;
}
