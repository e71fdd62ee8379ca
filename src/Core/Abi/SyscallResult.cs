namespace FramePin.Core.Abi;

/// <summary>
/// Answer of a call: a value (an address, a count, 0) or an errno, as a C function returns it. Outcomes are values
/// in Core; an exception means a bug of ours.
/// </summary>
public readonly record struct SyscallResult
{
    private SyscallResult(ulong value, Errno error, bool isPartial = false)
    {
        Value = value;
        Error = error;
        IsPartial = isPartial;
    }

    /// <summary>
    /// The value on success (an address in bytes, a count), also that of a call that waits; 0 with an error.
    /// </summary>
    public ulong Value { get; }

    /// <summary><see cref="Errno.None"/> on success.</summary>
    public Errno Error { get; }

    /// <summary>
    /// The call failed after it had changed something, which stays changed as Linux keeps it (rows 118, 126).
    /// </summary>
    public bool IsPartial { get; }

    /// <summary>
    /// The call waits at a fault of a handler outside, and this is what it has left to do; null when it is over.
    /// Without the rest the call has ended as if it was killed while it waited: -EINTR.
    /// </summary>
    public CallRest? Rest { get; private init; }

    public bool IsOk => Error == Errno.None;

    /// <summary>The C return value: the value, or the errno negated.</summary>
    public long Raw => IsOk ? unchecked((long)Value) : -(long)Error;

    public static SyscallResult Ok(ulong value = 0) => new(value, Errno.None);

    /// <summary>A failure; <paramref name="isPartial"/> when something was changed before it.</summary>
    public static SyscallResult Fail(Errno error, bool isPartial = false) => new(0, error, isPartial);

    /// <summary>A call that waits at a fault of a handler outside.</summary>
    public static SyscallResult Wait(CallRest rest) => new(rest.Value, Errno.EINTR, isPartial: true) { Rest = rest };

    public static implicit operator SyscallResult(Errno error) => new(0, error);

    public override string ToString() => IsOk ? $"0x{Value:x}" : $"-{Error}";
}
