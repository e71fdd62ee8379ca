using FramePin.Core.Abi;

namespace FramePin.Core.Kernel;

/// <summary>
/// A call that takes the machine's turn, as a value: a system call, or an event that enters from outside (the end of a
/// process, a handler's answer, a timeout). It is run by <c>Machine.Execute</c> and by nothing else.
/// </summary>
/// <typeparam name="TSelf">The command's own type.</typeparam>
/// <typeparam name="TResult">The answer. An outcome is a value; an exception is a bug in Core.</typeparam>
/// <remarks>
/// A command is deterministic: its effect follows from its fields and the state of the machine. It names objects of the
/// machine by number, so that it can be written to bytes and run on another machine. A command that carries bytes is a
/// ref struct over the caller's buffer.
/// </remarks>
public interface ICommand<TSelf, TResult>
    where TSelf : ICommand<TSelf, TResult>, allows ref struct
{
    /// <summary>Runs under the turn. Allocates nothing of its own.</summary>
    TResult Run(in Turn turn);

    /// <summary>Writes every field in the order in which <see cref="Read"/> takes them.</summary>
    void Write(CommandWriter writer);

    /// <summary>
    /// Reads what <see cref="Write"/> wrote. Throws <see cref="InvalidDataException"/> for other bytes.
    /// </summary>
    static abstract TSelf Read(ref CommandReader reader);
}

/// <summary>A command that answers as a system call does: a value or an errno.</summary>
public interface ISyscall<TSelf> : ICommand<TSelf, SyscallResult>
    where TSelf : ISyscall<TSelf>, allows ref struct;

/// <summary>A look at the machine under its turn. Changes nothing, has no number and is not recorded.</summary>
/// <typeparam name="TResult">The answer, which refers to no live object of the machine.</typeparam>
public interface IQuery<TResult>
{
    /// <summary>Runs under the turn.</summary>
    TResult Run(in Turn turn);
}
