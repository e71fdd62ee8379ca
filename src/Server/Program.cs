using System.CommandLine;
using System.ComponentModel;
using FramePin.Server;

var line = DaemonCommand.Create().Parse(args);
if (line.Errors.Count > 0) return DaemonCommand.Wrong(line.Errors[0].Message);
try
{
    return await line.InvokeAsync(
        new InvocationConfiguration { ProcessTerminationTimeout = null, EnableDefaultExceptionHandler = false });
}
catch (Exception exception) when (exception is IOException or UnauthorizedAccessException or Win32Exception)
{
    // What the host refuses: a socket, memory, a descriptor. Anything else is a fault of the daemon.
    return DaemonCommand.Wrong(exception.Message);
}
